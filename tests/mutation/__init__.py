"""Mutation tests of worker/engine/grpo, worker/engine/training and service/contracts: docs/testing.md."""
