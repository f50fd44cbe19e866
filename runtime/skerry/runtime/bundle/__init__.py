"""A bundle: an OCI image layout that holds one version of a model."""

__all__: list[str] = []
