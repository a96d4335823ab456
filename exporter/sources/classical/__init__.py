"""Models of tables: scikit-learn, XGBoost and LightGBM. One input, one row for each example."""
