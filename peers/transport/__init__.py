"""What workers and the coordinator share below the exchange: stream, lane, shared memory, access. No torch."""
