"""The offline side: what makes goldens, assets and reports; PyTorch may be imported here."""
