"""The doors: one module for each foreign system, so that nothing above knows which one stands behind."""
