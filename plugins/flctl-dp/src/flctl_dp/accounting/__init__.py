"""Privacy accounting: releases, and the epsilon that they compose to. Knows no run and no file."""
