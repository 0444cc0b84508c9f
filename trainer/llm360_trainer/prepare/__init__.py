"""Preparation: from text to rows of ids, tokenized and shuffled on all cores, the same bytes on any number of them.

    files ──► splits ──► blocks of documents ──► parts       inputs, tokenize   ids and lengths of the documents
                                                   │
                            rows of N+1 ids ◄──────┘         packing            cut from each source's ids end to end
                                  │
       layout: row ──► place ──►  runs                       layout, scatter    rows sorted by their place
                                  │
                                shards ──► manifest          gather, pipeline   Parquet in training order

Parts and runs lie in a scratch folder beside the output, each written whole or not at all, so an interrupted
preparation goes on where it stopped. No step holds more than a block, a run or a shard per core in memory.
`runner` says where steps run: in this process, or as Ray Data tasks on all cores of a machine or a cluster.
`lost` has files made again that a finished data set has lost; `cluster` and `signals` serve all that runs on Ray.
"""
