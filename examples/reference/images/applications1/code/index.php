<?php
// The second code volume: an administration page of its own version.
$version = trim(file_get_contents(__DIR__ . '/VERSION'));
header("X-Version: $version");
header('X-Fpm-Version: ' . getenv('FPM_VERSION'));
header('Content-Type: text/plain');
echo "admin $version\n";
