"""What the training needs: planned without torch, from the store where it is known."""
