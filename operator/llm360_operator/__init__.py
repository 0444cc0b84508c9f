"""The operator: from an LLM360Run to pods, and back to its status.

```
 handlers   kopf's events: each only puts a run's key into the queue
    │
 queueing   one entry per run, one worker per run at a time, backoff
    │
 controller observe ─► reconcile ─► apply: the only place that writes
    │           │          │
 observe     children and the driver's /status, read afresh each time, as small values (`seen`)
    │
 reconcile  decides, purely: actions and a verdict      plan: which configuration holds
    │
 builders   manifests, purely                            verdict: phase and conditions from one table
    │
 api        the only module that talks to Kubernetes
```

Nothing is remembered between two rounds but what the run's own status says, so a restart changes nothing.
"""
