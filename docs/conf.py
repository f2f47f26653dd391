"""Sphinx configuration. `scripts/docs` treats warnings as errors. Neither the build nor the pages load anything from the network."""

import importlib.metadata
import re

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

project = "dubito"
author = "The dubito maintainers"
version = release = importlib.metadata.version("dubito")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
exclude_patterns = ["_build"]
html_theme = "pydata_sphinx_theme"
html_title = "dubito"
html_static_path = ["_static"]
html_css_files = ["dubito.css"]
html_show_sourcelink = False
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"index": [], "mathematics": []}
project_copyright = "the dubito maintainers, Apache License 2.0"

myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "attrs_block", "colon_fence"]
myst_dmath_double_inline = True
myst_heading_anchors = 3

html_math_renderer = "mathml"

# Every page is executed in every build, so that it shows the output of this checkout. The notebooks need PyTorch and published data:
# `scripts/docs --interop` executes them and stores their output.
nb_execution_mode = "force"
nb_execution_excludepatterns = ["guides/*.ipynb"]
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_typehints = "none"
# Types in docstrings are words for readers ("array of shape (N, D)"), not references.
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_use_ivar = True
nitpick_ignore_regex = [("py:class", ".*")]
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
toc_object_entries_show_parents = "hide"
add_module_names = False


ATTRIBUTE_TYPE = re.compile(r":vartype (.+?): (.*)")


def readable(app, what, name, obj, options, lines):
    """Convert docstrings to reStructuredText.

    Escapes |w| and ``Path``s, which are a substitution and an error there, and writes the types of attributes in italics.
    """
    del app, what, name, obj, options
    types = {found[1]: found[2] for line in lines if (found := ATTRIBUTE_TYPE.match(line))}
    lines[:] = [line for line in lines if not ATTRIBUTE_TYPE.match(line)]
    for number, line in enumerate(lines):
        found = re.match(r":ivar (.+?):", line)
        if found and found[1] in types:
            lines[number] = f":ivar {found[1]}: *{types[found[1]]}*" + (
                " --" + line[found.end() :] if line[found.end() :] else ""
            )
    for number, line in enumerate(lines):
        parts = re.split(r"(``.*?``)", line)  # texts and literals alternate
        texts = [text.replace("|", "\\|") for text in parts[::2]]
        texts[1:] = ["\\ " + text if re.match(r"[\w²]", text) else text for text in texts[1:]]
        parts[::2] = texts
        lines[number] = "".join(parts)


NAMED = re.compile(r"<mi>(log|sin|cos|arccos|max|min|arg|exp|sign)</mi>")  # functions: a space before the argument


def inline(translator, node):
    translator.body.append(mathml(node, block=False))
    raise nodes.SkipNode


def block(translator, node):
    translator.body.append(f'<div class="formula">{mathml(node, block=True)}</div>')
    raise nodes.SkipNode


def mathml(node, block):
    return NAMED.sub(r'<mi>\1</mi><mspace width="0.17em"></mspace>', tex2mathml(node.astext(), as_block=block))


def setup(app):
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    app.connect("autodoc-process-docstring", readable)
