"""Where voorwerp runs: manifests for Kubernetes, images and example jobs, as data. No code."""
