"""Will it fit: what is here, what the training needs, and which single change is enough when it does not fit."""

from __future__ import annotations
