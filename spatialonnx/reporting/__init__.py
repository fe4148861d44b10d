"""The report: what was asked, what was reached and how it looks, as HTML, Markdown and JSON."""
