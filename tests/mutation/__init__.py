"""Mutation tests of worker/grpo, worker/training and service/contracts: docs/testing.md."""
