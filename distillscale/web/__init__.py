"""The planner over HTTP: reads questions as JSON, asks the library, answers with its keys; it holds no formula.

Loaded by `distillscale serve` alone; needs starlette and uvicorn (`pip install 'distillscale[web]'`).
"""
