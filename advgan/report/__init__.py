"""Reports: tables, figures, galleries, HTML, LaTeX, TensorBoard."""
