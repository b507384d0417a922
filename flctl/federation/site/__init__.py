"""A data owner's side: policy, approvals, the record, and the checks of each order."""
