"""Sphinx settings: MyST Markdown, formulas between dollars, the furo theme."""

project = "outgrow"
author = "the outgrow authors"
copyright = "2026, the outgrow authors"
release = "0.1.0"

extensions = ["myst_parser", "sphinx.ext.mathjax", "sphinx-mathjax-offline"]  # formulas without a network
myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 3

exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "outgrow"
html_static_path = ["_static"]
html_copy_source = False
