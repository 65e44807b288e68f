"""Programs that train, probe and convert data2vec models; thin files over `recipes.common`."""
