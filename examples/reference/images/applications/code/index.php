<?php
require __DIR__ . '/common.php';

header('Content-Type: text/plain');
echo version(), "\n";
