<?php
// Counts in redis, which outlives every deploy.
require __DIR__ . '/common.php';

header('Content-Type: text/plain');
echo redis('INCR', 'counter'), "\n";
