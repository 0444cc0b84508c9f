module llm360.ai/testbed/pause

go 1.24
