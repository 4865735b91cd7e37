"""Carries compute and storage over Ray and Dask. Holds wiring, no formula."""
