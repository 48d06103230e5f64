#!/usr/bin/env node
// A file outside dist/, so that the package manager can link the command before the first build.
import '../dist/main.js';
