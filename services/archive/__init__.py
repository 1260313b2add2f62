"""The archiver: keeps the examples of Kafka as Parquet files, and reads them again."""
