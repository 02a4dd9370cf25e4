<?php
// Takes ?ms=400 milliseconds, and sends nothing before they are over.
require __DIR__ . '/common.php';

usleep(1000 * (int) ($_GET['ms'] ?? 400));
header('Content-Type: text/plain');
echo version(), "\n";
