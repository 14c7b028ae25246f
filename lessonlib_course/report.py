"""Turns an executed notebook into one HTML file that needs no network and no script."""

import html
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbformat import NotebookNode

# nbconvert's page less the scripts it would fetch: require.js, MathJax and mermaid.
_TEMPLATE = """{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
"""


def to_html(executed: "NotebookNode", *, title: str, language: str) -> str:
    """The notebook as one HTML page.

    Args:
        executed: a notebook with outputs.
        title: of the page.
        language: "vi" or "en", for screen readers and hyphenation.
    """
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter

    loader = DictLoader({"report.html.j2": _TEMPLATE})
    exporter = HTMLExporter(extra_loaders=[loader], template_file="report.html.j2")
    exporter.language_code = language
    exporter.register_filter("markdown2html", _markdown)
    page, _ = exporter.from_notebook_node(executed, resources={"metadata": {"name": title}})
    return page


def _markdown(text: str) -> str:
    """Markdown as nbconvert reads it, with formulas as MathML, which browsers show by themselves."""
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def inline_math(self, body: str) -> str:
            return _formula(body, "inline")

        def block_math(self, body: str) -> str:
            return _formula(body, "block")

    return MarkdownWithMath(renderer=Renderer(escape=False, anchor_link_text="¶")).render(text)


def _formula(body: str, display: str) -> str:
    from latex2mathml.converter import convert

    try:
        return convert(body.strip(), display=display)
    except Exception:  # TeX that the converter does not know stays readable as it was written
        return f"<code>{html.escape(body)}</code>"
