"""Knowledge-graph-guided retrieval-augmented generation (KG²RAG, arXiv 2502.06864)."""
