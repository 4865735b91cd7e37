"""Where voorwerp runs: manifests for Kubernetes, images, monitoring and example jobs."""
