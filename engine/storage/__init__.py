"""Bytes to arrays and back, on local disk and S3. Knows no science and no cluster."""
