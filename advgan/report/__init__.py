"""What people look at: tables, galleries, TensorBoard runs, model cards."""
