"""HTML pages that need no other file: tables that sort, plots, pictures in the text, light and dark, on paper too."""
