"""The tests. `oracles/` holds those who judge; other modules without `test_` help several tests."""
