"""The window: Qt views over pipeline.Project; no project logic lives here."""
