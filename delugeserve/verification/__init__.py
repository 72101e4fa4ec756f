"""The proof that an artefact computes what the network computes; torch-free."""
