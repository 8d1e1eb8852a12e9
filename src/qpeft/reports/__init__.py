"""What a study found, as one self-contained page, as Markdown and as CSV."""
