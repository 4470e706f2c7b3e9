"""Methods side by side: runs over seeds, their statistics, tables, plots and a store of results."""
