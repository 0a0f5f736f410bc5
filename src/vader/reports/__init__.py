"""What a person reads: metrics, tables, pictures, report pages, and where numbers come from."""
