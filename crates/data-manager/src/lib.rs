//! The DataManager facade: combines engines and capabilities behind one pipeline.
