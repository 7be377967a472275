"""The software-defined assets: one module a layer, thin over the domain code."""
