"""What eval/sweep.py and eval/transfer.py write: curves against eps, the matrix of transfer, and their pages."""
