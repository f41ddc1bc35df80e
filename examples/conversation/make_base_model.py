"""Make models/ticket-lm-chat: the example project's base model with the chat template that stands here."""

import shutil
from pathlib import Path

HERE = Path(__file__).parent
BASE = HERE.parents[1] / "example_project" / "models" / "ticket-lm"

if __name__ == "__main__":
    made = shutil.copytree(BASE, HERE / "models" / "ticket-lm-chat", dirs_exist_ok=True)
    shutil.copy(HERE / "chat_template.jinja", made)
    print(f"{made}: {BASE.name} with a chat template")
