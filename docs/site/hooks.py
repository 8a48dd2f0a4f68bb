"""What MkDocs does with these pages beyond Markdown; the same files are read on GitHub.

- README.md, README.zh-CN.md, CONTRIBUTING.md and CHANGELOG.md become pages, other files of the repository that a page
  links to come with the site, and the links follow.
- A notebook in docs/tutorials/ becomes a page with its committed outputs.
- Equations ($...$ and ```math) become MathML, which browsers draw without a script or a network.
- A name like `advgan.fit` becomes a link to its place in the reference.
"""

from __future__ import annotations

import json
import posixpath
import re
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parents[2]
ROOT_PAGES = {
    "README.md": "overview.md",
    "README.zh-CN.md": "overview.zh-CN.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"(\]\()([^)\s#]+)([^)\s]*\))")
NAME = re.compile(r"(?<![`\[])`(advgan(?:\.\w+)+)(\([^`]*\))?`(?![`\]])")
FENCE = re.compile(r"^```.*?^```$", re.M | re.S)


def source(src_uri: str) -> str:
    """The path in the repository of a page."""
    names = {page: name for name, page in ROOT_PAGES.items()}
    return names.get(src_uri, src_uri if src_uri.startswith("repository/") else f"docs/{src_uri}")


def page_of(path: str) -> str:
    """The page, or file of the site, of a path in the repository."""
    if path in ROOT_PAGES:
        return ROOT_PAGES[path]
    inside = path.removeprefix("docs/") if path.startswith("docs/") else f"repository/{path}"
    return re.sub(r"^(tutorials/.*)\.ipynb$", r"\1.md", inside)


def link_targets(text: str, path: str) -> set[str]:
    """Existing files of the repository that the page made of `path` links to."""
    targets = {posixpath.normpath(posixpath.join(posixpath.dirname(path), link[1])) for link in LINK.findall(text)}
    return {target for target in targets if not target.startswith("..") and (ROOT / target).is_file()}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Entries of the navigation with a * become the pages that they match: README first, Chinese pages last."""
    for section in config.nav or []:
        for title, entries in section.items():
            if isinstance(entries, list):
                section[title] = [page for entry in entries for page in expand(entry)]
    config.nav = [section for section in config.nav or [] if all(section.values())]
    return config


def expand(entry: Any) -> list[Any]:
    if not (isinstance(entry, str) and "*" in entry):
        return [entry]
    paths = [path for path in (ROOT / "docs").glob(entry) if path.suffix in (".md", ".ipynb")]
    paths.sort(key=lambda path: (".zh-CN" in path.name, not path.name.startswith("README"), path.name))
    return [page_of(str(path.relative_to(ROOT))) for path in paths]


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the pages and files that are not Markdown in docs/."""
    from mkdocs.structure.files import File

    for name, page in ROOT_PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text()))
    for file in list(files):
        if file.src_uri.startswith("tutorials/") and file.src_uri.endswith(".ipynb"):
            content = notebook_page(Path(str(file.abs_src_path)))
            files.append(File.generated(config, page_of(f"docs/{file.src_uri}"), content=content))
    for file in list(files.documentation_pages()):
        for target in link_targets(file.content_string, source(file.src_uri)):
            if (page := page_of(target)).startswith("repository/") and page not in files.src_uris:
                files.append(File.generated(config, page, abs_src_path=str(ROOT / target)))
    return files


def notebook_page(path: Path) -> str:
    """A notebook as Markdown: text as it is, code in a fence, outputs below it."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        text = "".join(cell["source"]).strip("\n")
        if cell["cell_type"] == "markdown":
            parts.append(text)
        elif cell["cell_type"] == "code" and text:
            parts.append(f"```python\n{text}\n```")
            parts.extend(filter(None, map(output_block, cell["outputs"])))
    title, _, rest = "\n\n".join(parts).partition("\n")
    return f"{title}\n\n[The notebook, to run it]({path.name}){{ download }}\n\n{rest.lstrip()}"


def output_block(output: dict[str, Any]) -> str:
    """The output of a cell: image, table, or text; progress on stderr is left out."""
    data = output.get("data", {})
    if image := data.get("image/png"):
        return f'<img class="output" alt="output" src="data:image/png;base64,{"".join(image.split())}">'
    if html := "".join(data.get("text/html", "")):
        return f'<div class="output">{re.sub(r"<style.*?</style>", "", html, flags=re.S)}</div>'
    text = "".join(output.get("text", data.get("text/plain", ""))).strip("\n")
    return f"``` {{ .text .output }}\n{text}\n```" if text and output.get("name") != "stderr" else ""


def on_page_markdown(markdown: str, *, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Links and names of the repository become those of the site."""
    path, uri = source(page.file.src_uri), page.file.src_uri

    def link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), match[2]))
        if "://" in match[2] or "(download)" in match[0] or not (ROOT / target).is_file():
            return match[0]
        return match[1] + posixpath.relpath(page_of(target), posixpath.dirname(uri) or ".") + match[3]

    def name(match: re.Match[str]) -> str:
        identifier = find_reference(match[1], references())
        return f"[{match[0]}][{identifier}]" if identifier else match[0]

    markdown = re.sub(r"^```math\n(.*?)^```$", r"$$\n\1$$", markdown, flags=re.M | re.S)
    fences = FENCE.findall(markdown)
    parts = [NAME.sub(name, LINK.sub(link, part)) for part in FENCE.split(markdown)]
    return "".join(part + fence for part, fence in zip(parts, [*fences, ""], strict=True))


def references() -> list[str]:
    """Identifiers in the pages of the reference."""
    pages = sorted((ROOT / "docs/reference").glob("*.md"))
    return [name for page in pages for name in re.findall(r"^::: (\S+)", page.read_text(), re.M)]


def find_reference(name: str, identifiers: list[str]) -> str:
    """The identifier for `name`, which may be its import path or a method; "" if there is none."""
    parent, _, last = name.rpartition(".")
    for identifier in identifiers:
        if identifier == name or (identifier.startswith(f"{parent}.") and identifier.endswith(f".{last}")):
            return identifier
    is_module_or_class = parent in identifiers or parent.rpartition(".")[2][:1].isupper()
    owner = find_reference(parent, identifiers) if is_module_or_class else ""
    return owner and f"{owner}.{last}"


def on_page_content(html: str, **_: Any) -> str:
    """Equations as MathML."""
    html = re.sub(r'<span class="arithmatex">\\\((.*?)\\\)</span>', lambda m: mathml(m[1], "inline"), html, flags=re.S)
    return re.sub(r'<div class="arithmatex">\\\[(.*?)\\\]</div>', lambda m: mathml(m[1], "block"), html, flags=re.S)


def mathml(latex: str, display: str) -> str:
    from latex2mathml.converter import convert

    return convert(unescape(latex).strip(), display=display)
