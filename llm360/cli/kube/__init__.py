"""`kubectl llm360 …`: the commands about a run on a cluster, found by kubectl as its plugin.

Everything of the cluster goes through kubectl itself (`kubectl.py`), so contexts, logins and proxies are those that the
user's kubectl has, and a run is read and changed with the user's own rights. The release is read as everywhere, with
the credentials of the caller's environment: no Secret is looked at.
"""
