"""What test modules share: files, worlds, corpus, mutations, and how to look at traffic."""
