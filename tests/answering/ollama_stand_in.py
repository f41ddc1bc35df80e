"""A stand-in for Ollama: `serve` and `create`, and of its interface what is asked here; it holds no model.

It renders by the template of the Modelfile, of Go's language what ours are written in, and answers with the prompt.
"""

from __future__ import annotations

import http.server
import json
import os
import re
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

TABLE = json.loads(Path(os.environ["ANSWERS"]).read_text("utf-8")) if "ANSWERS" in os.environ else {}

OWN_STOP = '### "Human"'


def rendered(template: str, prompt: str, messages: list[dict[str, str]]) -> str:
    """Render a template that ours could be: text in quotes, a range over the messages, what stands between roles."""
    if "{{ range" not in template:
        return template.replace("{{ .Prompt }}", prompt or "".join(one["content"] for one in messages))
    body = template[
        template.index("{{ range .Messages }}") + 21 : template.index("{{ $before = .Role }}{{ end }}")
    ]
    end = template.partition("{{ $before = .Role }}{{ end }}")[2]
    pattern = r'\(and \(eq \$before "(\w*)"\) \(eq \.Role "(\w+)"\)\)\}\}(?:\{\{ ("(?:[^"\\]|\\.)*") \}\})?'
    between = {(before, role): json.loads(said or '""') for before, role, said in re.findall(pattern, body)}
    given = messages or [{"role": "user", "content": prompt}]
    found, before = "", ""
    for one in given:
        found += between.get((before, one["role"]), "") + one["content"]
        before = one["role"]
    return found + (json.loads(end[3:-3]) if end else "")


class Handler(http.server.BaseHTTPRequestHandler):
    models: ClassVar[dict[str, dict[str, Any]]] = {}
    quirk = os.environ.get("QUIRK", "")

    def log_message(self, *args: Any) -> None:
        pass

    def reply(self, found: Any) -> None:
        data = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        if self.path == "/api/version":
            self.reply({"version": "0.12.0"})
        elif self.path == "/v1/models":
            self.reply({"data": [{"id": name, "owned_by": "library"} for name in self.models]})
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/api/create":
            self.models[body["model"]] = taken = read_modelfile(body["modelfile"])
            if self.quirk == "templates of its own":
                taken["template"] = "### {{ .Prompt }}"
            print("created", json.dumps(taken), flush=True)
            return self.reply({"status": "success"})
        model = self.models[body["model"]]
        if self.path == "/api/show":
            lines = [f"{name:<30} {model[name]}" for name in ("num_ctx", "stop") if name in model]
            lines += [f"{'stop':<30} {json.dumps(OWN_STOP)}"] * (self.quirk == "stops of its own")
            return self.reply({"parameters": "\n".join(lines)})
        text = rendered(model["template"], body.get("prompt", ""), body.get("messages", []))
        if body.get("_debug_render_only") and self.quirk != "shows nothing":
            return self.reply({"_debug_info": {"rendered_template": text}})
        if self.path == "/api/generate":
            return self.reply({"response": "?"})
        tokens = len(text.split())
        if "ANSWERS" in os.environ:  # a model that answers from a table, and does not count
            said = {"message": {"content": TABLE[text]}} if "messages" in body else {"text": TABLE[text]}
            return self.reply(
                {"choices": [{**said, "finish_reason": "stop"}], "usage": {"completion_tokens": 2}}
            )
        read = min(tokens, int(model["num_ctx"])) if self.quirk != "cuts" else 1
        said = {"message": {"content": text}} if "messages" in body else {"text": text}
        usage = {"prompt_tokens": read, "completion_tokens": 2}
        return self.reply({"choices": [{**said, "finish_reason": "stop"}], "usage": usage})


def read_modelfile(text: str) -> dict[str, Any]:
    template = re.search(r'^TEMPLATE """(.*?)"""$', text, re.M | re.S)
    return {**dict(parameters(text)), "template": template[1] if template else "### {{ .Prompt }}"}


def parameters(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        if line.startswith("PARAMETER "):
            _, name, value = line.split(" ", 2)
            yield name, value


def main(words: list[str]) -> None:
    host = os.environ["OLLAMA_HOST"].removeprefix("http://")
    if words[0] == "serve":
        address, _, port = host.partition(":")
        http.server.ThreadingHTTPServer((address, int(port)), Handler).serve_forever()
    _, name, _, file = words
    text = Path(file).read_text(encoding="utf-8")
    if "FROM /nowhere" in text:
        sys.exit("Error: no such GGUF")
    body = json.dumps({"model": name, "modelfile": text}).encode()
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
        f"http://{host}/api/create", body
    ).read()


if __name__ == "__main__":
    main(sys.argv[1:])
