"""The engine: pure mathematics (compute), one door to files (storage), Ray and Dask (cluster), HTTP (service)."""
