# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
