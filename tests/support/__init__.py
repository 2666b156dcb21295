"""What tests share: real daemons and real processes. Fakes live in the package, not here."""
