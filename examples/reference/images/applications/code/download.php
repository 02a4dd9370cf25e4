<?php
// Sends ?mb=8 mebibytes over ?seconds=4 seconds.
require __DIR__ . '/common.php';

$chunks = 16 * (int) ($_GET['mb'] ?? 8);
$pause = 1e6 * (float) ($_GET['seconds'] ?? 4) / $chunks;
set_time_limit(0);
header('Content-Type: application/octet-stream');
header('Content-Length: ' . ($chunks * 65536));
header('X-Accel-Buffering: no');
for ($i = 0; $i < $chunks; $i++) {
    echo str_repeat('x', 65536);
    flush();
    usleep((int) $pause);
}
