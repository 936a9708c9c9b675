"""Write a study into its Optuna storage, one transaction a trial."""
