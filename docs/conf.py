"""How the documentation is built: Sphinx with the furo theme, pages in Markdown (MyST).

Why Sphinx: the pages have to be built for as long as the package lives. MkDocs has had no feature
release since 2024, Material for MkDocs has been in maintenance mode since the end of 2025, and its
successor Zensical is at version 0.1. Python and its scientific libraries build their pages with
Sphinx. It reads docstrings (autodoc, napoleon), executes tutorials (MyST-NB), checks references,
and one option makes every warning an error. The furo theme is plain HTML and CSS, which works on a
phone and without a network.
"""

import logging
import os
import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import generate

project = "hpcsamp"
author = "The hpcsamp developers"
copyright = "the hpcsamp developers, BSD-3-Clause"
version = release = installed("hpcsamp")
language = "en"

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_nb"]
exclude_patterns = ["**/.ipynb_checkpoints"]
root_doc = "index"

# Pages
myst_enable_extensions = ["colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 3
nb_execution_mode = os.environ.get("HPCSAMP_DOCS_TUTORIALS", "force")  # "off" for a quick look
nb_execution_timeout = 600  # a cell, on a machine with other work
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_merge_streams = True
nb_number_source_lines = False
# Tutorials run in a kernel without the settings of whoever builds them, and report errors alone.
kernel = Path(__file__).parents[1] / "build" / "ipython" / "profile_default"
kernel.mkdir(parents=True, exist_ok=True)
(kernel / "ipython_kernel_config.py").write_text("get_config().IPKernelApp.log_level = 40\n")
os.environ["IPYTHONDIR"] = str(kernel.parent)
logging.getLogger("traitlets").setLevel(logging.WARNING)

# Docstrings
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
suppress_warnings = [
    "ref.python"
]  # words of the field in a Returns section that are attributes, too
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signature of numpy docstrings has them in words
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"

# Look: no file of another host, so that the pages can be read on a machine without a network
html_theme = "furo"
html_title = f"hpcsamp {release}"
html_static_path = ["_static"]
html_css_files = ["own.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}


def setup(app):
    """Write the generated references before the pages are read."""
    app.connect("builder-inited", lambda _: generate.write_all(Path(app.srcdir)))
