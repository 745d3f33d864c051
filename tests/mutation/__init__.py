"""Mutation tests of worker/engine/grpo, worker/engine/training and service/contracts: docs/explanation/testing.md."""
