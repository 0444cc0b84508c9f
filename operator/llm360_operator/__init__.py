"""The operator: from an LLM360Run to pods, and back to its status.

```
 handlers   kopf's events: each goes into the cache, and where it is news puts a run's key into the queue
    │
 queueing   one entry per run, one worker per run at a time, backoff
    │
 controller observe ─► reconcile ─► apply: the only place that writes
    │           │          │
 observe     the run's children, the driver's /status, as small values (`seen`)     cache: what is known of runs
    │
 reconcile  decides, purely: actions and a verdict      plan: which configuration holds
    │
 builders   manifests, purely                            verdict: phase and conditions from one table
    │
 api        the only module that talks to Kubernetes      announcing: events, behind the rounds
```

Nothing has to be remembered between two rounds but what the run's own status says, so a restart changes nothing: what
the cache knows can be asked for again at any time, and is, every few minutes.
"""
